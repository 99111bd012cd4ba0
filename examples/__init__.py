"""Small programs that show how CopyCat is used; installed as ``copycat.examples`` so that they can be run and tested."""
