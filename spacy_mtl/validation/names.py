"""The files in the output folder of a cross-validation."""

SETTINGS = "cv.json"  # what the folds depend on
SUMMARY, PAGE = "summary.json", "page.html"
PREDICTIONS, GOLD = "predictions.spacy", "gold.spacy"  # the same docs in the same order
FOLDS = "folds"  # a folder with a folder for each fold
# In the folder of a model of a fold, besides its pipeline.
RESULT, LOG, CONFIG = "result.json", "log.txt", "config.cfg"
