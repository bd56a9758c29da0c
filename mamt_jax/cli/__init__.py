"""The command line: `mamt train | sweep | evaluate | compare | figures | list`."""
