"""A file of requests, answered into another file: OpenAI's batch format, over the service of this process.

files   the two files: what is asked, what is answered already, a torn end mended
door    the OpenAI door's own app, called without a socket
runner  many requests in flight, each answer written as it comes
"""
