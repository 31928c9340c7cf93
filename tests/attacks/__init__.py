"""The known attacks, from inside an agent container: on the service, and on the pattern as it first shipped.

This is a package so that its shared stage is removed before other folders' tests begin.
"""
