"""What the line has done in a worker child, on the folders of artifacts.

Each module is a step's first, named by the plug; what does the work takes weights and settings.
"""
