"""Does a model give away whom it was trained on: by its draws (`copies`), by how well it knows them (`membership`), by
marks that were put into training (`canaries`); and what bounds that beforehand (`accounting`).
"""
