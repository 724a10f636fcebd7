"""Apple's containers: each is a virtual machine of its own, driven by the program `container` of macOS."""
