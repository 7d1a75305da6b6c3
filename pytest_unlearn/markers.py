"""The markers, apart from all else: they are registered even when the plugin is inert."""

MARKERS = {
    "unlearn_forget": "unlearn_forget(kind, carrier, probe): parametrize unlearn_probe over "
    "forget records; select with -m \"unlearn_forget(kind='email')\"",
    "unlearn_retain": "unlearn_retain(kind, carrier, probe): the same over retained "
    "people's records",
    "unlearn_control": "unlearn_control(kind, carrier, probe): the same over records "
    "never trained on",
    "unlearn_task": "unlearn_task: parametrize unlearn_task over the programming tasks",
    "unlearn_critical": "unlearn_critical: a leak fails this test, whatever the rate",
}
