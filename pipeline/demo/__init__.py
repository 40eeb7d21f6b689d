"""A web page for trying the models of a server: descriptions of the models, predictions and explanations."""
