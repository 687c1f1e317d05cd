"""The work behind data.pack: images found, divided, decoded, and written as records."""

#: Images between two places that an interrupted run goes on from.
CHUNK = 1000
