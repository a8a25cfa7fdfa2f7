"""The same bundle behind other servers, each written as its own documentation recommends.

Peers run in processes of their own, and nothing in loadtest imports them. Only they may import `models`: a fair
comparison needs the same codec and the same file. Each peer has one model process and one thread for the model, and
answers with orjson where its framework allows it.
"""
