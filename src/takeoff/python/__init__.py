"""The Python door: a model in engine processes of its own, without HTTP between.

options    what a caller may say of sampling, of messages and of settings, checked
async_llm  AsyncLLM: the calls, in the caller's event loop
llm        LLM: the same calls for code that has no event loop
thread     the event loop that LLM keeps in a thread
"""

from takeoff.python.async_llm import AsyncLLM
from takeoff.python.llm import LLM
from takeoff.python.options import Message, Sampling

__all__ = ["LLM", "AsyncLLM", "Message", "Sampling"]
