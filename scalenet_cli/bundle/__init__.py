"""Files in, files out. Nothing here touches a module."""
