"""Asks a server on this machine, as the page of `sgformer serve` does."""

import http.client
import json


class Client:
    """Asks a server in this process, over a real connection."""

    def __init__(self, port, host="127.0.0.1"):
        self.host, self.port = host, port

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def post(self, body, query="", **headers):
        status, _, reply = self.ask("POST", f"/images{query}", body, **headers)
        return status, json.loads(reply)
