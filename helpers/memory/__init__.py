"""Will it fit? What a model needs on each device, known before anything is loaded."""

from helpers.memory.plan import MemoryPlan
from helpers.memory.predict import predict_memory, suggest_gpu_layers

__all__ = ["MemoryPlan", "predict_memory", "suggest_gpu_layers"]
