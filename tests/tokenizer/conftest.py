from hypothesis import HealthCheck, settings

settings.register_profile(
    "minimind", derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("minimind")
