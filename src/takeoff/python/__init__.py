"""The Python door: a model in engine processes of its own, without HTTP between.

options    what a caller may say of prompts, sampling, messages and settings, checked
completion what `complete` gives beside the text
async_llm  AsyncLLM: the calls, in the caller's event loop
llm        LLM: the same calls for code that has no event loop
thread     the event loop that LLM keeps in a thread
"""

from takeoff.python.async_llm import AsyncLLM
from takeoff.python.completion import Completion
from takeoff.python.llm import LLM
from takeoff.python.options import ChatOptions, Message, PromptOptions, Sampling
from takeoff.service.ranking import Ranked

__all__ = ["LLM", "AsyncLLM", "ChatOptions", "Completion", "Message", "PromptOptions", "Ranked", "Sampling"]
