"""Engines behind one interface, `toprovar.runtime.backends.base.Backend`; a file's name is the backend's."""
