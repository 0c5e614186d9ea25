"""Codecs of udsoncan that take a data identifier's value whole, however long it is."""

from udsoncan import DidCodec


class Whole(DidCodec):
    def __len__(self):
        raise DidCodec.ReadAllRemainingData


class Raw(Whole):
    """As bytes."""

    def encode(self, value):
        return bytes(value)

    def decode(self, payload):
        return bytes(payload)


class Text(Whole):
    """As UTF-8."""

    def encode(self, value):
        return value.encode()

    def decode(self, payload):
        return payload.decode()
