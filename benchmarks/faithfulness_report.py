def write_report(records, settings, output):
    import pickle
    return str(len(records))
