"""The same bundle behind other servers, each as its own documentation would have it.

Peers are programs under test, started in processes of their own: nothing in loadtest imports them, and they alone
may import `models`, because the comparison wants the same codec and the same file on both sides. Each has one model
process and one thread for the network, and answers with orjson where its framework lets it.
"""
