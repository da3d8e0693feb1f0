"""Which tiles are fastest on this device: trials of the generated kernels, each in a process of its own.

trial (one configuration: right? how fast?) -> process (a trial that may crash) -> tune (which to try next; keeps the best).
"""
