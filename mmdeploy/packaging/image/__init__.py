"""Programs that lie in the image of a release and run there: standard library only, none of mmdeploy."""
