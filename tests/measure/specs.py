"""The spec of a speed cell that takes less than a second."""

SPEC = {
    "device": "cpu",
    "threads": 1,
    "precision": "float32",
    "model": {"label": "gru4rec", "name": "gru4rec", "options": {}},
    "partner": {"label": "lrurec", "name": "lrurec", "options": {}},
    "length": 16,
    "batch": 2,
    "phases": ["step"],
    "minimum_seconds": 0.01,
    "minimum_steps": 2,
    "budget_seconds": 0.5,
    "catalogue_items": 50,
    "negatives": 8,
    "learning_rate": 1e-3,
    "compile": False,
}
