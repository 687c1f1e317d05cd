"""The work of data.pack: images found, divided, decoded, and written as records."""

#: Images between two places from which an interrupted run resumes.
CHUNK = 1000
