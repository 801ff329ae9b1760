"""A client: what it holds for a shape, kept by pulls."""
import json

from tracker import sync


class Copy:
    def __init__(self, shape, using="default"):
        self.shape, self.using = shape, using
        self.cursor, self.rows = None, {}

    def pull(self):
        """Applies a delta and returns its ops."""
        self.cursor, text, _ = sync.pull(self.cursor, self.shape, self.using)
        return self.apply(json.loads(text))

    def apply(self, delta):
        ops = []
        for change in delta["changes"]:
            ops.append(change["op"])
            key = change.get("relation"), json.dumps(change.get("key"))
            if change["op"] == "reset":
                self.rows.clear()
            elif change["op"] == "delete":
                self.rows.pop(key, None)
            else:
                self.rows[key] = change["value"]
        return ops

    def titles(self):
        return sorted(row["title"] for (relation, _), row in self.rows.items() if relation == "issue")
