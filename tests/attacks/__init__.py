"""The known attacks, from inside an agent container: on the service, and on the pattern as it was first shipped.

A package, so that the stage they share is taken down before other folders' tests begin.
"""
