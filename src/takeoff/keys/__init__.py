"""Who may ask a server what, and how much of it.

key       a key as its file has it, and how its text is made
file      the file of keys: read whole, written whole, by one at a time
keyring   the keys of a running server, read again when the file changes
account   what a key has used, and what it may still use
"""
