"""Text towers of other libraries as parts: one small adapter a library, over the library's own modules."""
