# The suite in a container: JupyterLab, by a user without privileges, on a small image.
#
#   docker build -t llama-notebooks .
#   docker run --rm -it -p 127.0.0.1:8888:8888 llama-notebooks
#
# The address that the second line prints, http://127.0.0.1:8888/…, opens it. 127.0.0.1 in -p keeps
# the port from the network; the token is asked for in any case.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /opt/llama-notebooks
COPY .docker/steps.sh .docker/steps.sh
RUN .docker/steps.sh compiler
COPY . .
# From source, so that the practice accelerator is in it; and for other processors than the one that
# builds (x86-64: with AVX2).
ENV LLAMA_NOTEBOOKS_SOURCE_BUILD=1 CMAKE_ARGS=-DGGML_NATIVE=off
RUN .docker/steps.sh environment

FROM python:${PYTHON}
WORKDIR /opt/llama-notebooks
COPY .docker/steps.sh .docker/steps.sh
RUN .docker/steps.sh runtime
# An environment knows its own place: the same folder in both stages.
COPY --from=build --chown=learner:learner /opt/llama-notebooks .
USER learner
RUN .docker/steps.sh prove
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD [".docker/steps.sh", "health"]
CMD ["python3", "-m", "helpers", "lab", "--ip", "0.0.0.0", "--port", "8888", "--no-browser"]
