"""Which path is best for each pair of PoP and origin, and when a better one is better enough to move to.

Pure: the caller brings the time and what was measured. numpy and nothing else; no clock, no file, no socket.
"""
