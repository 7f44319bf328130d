"""rbfbench: how robust is this image classifier, really?"""
