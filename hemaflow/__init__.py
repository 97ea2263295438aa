"""hemaflow trains, judges and packages classifiers of blood cell images."""
