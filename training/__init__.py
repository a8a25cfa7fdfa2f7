"""How a model is made: recipes, data, networks, the loop, export and score. The only package that knows torch."""
