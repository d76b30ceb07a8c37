"""The other end of a header compression, made of the hpack package. Does what the lines of its input say:
"new" begins a connection, "limit N" is the table size that this side announces, "size N" the one that its
encoder uses; "decode HEX" prints the fields of a block, "encode FIELD..." the block of fields, with "plain"
before them without Huffman code. A field is NAME:VALUE in hex, with "!" behind it when no table may hold
it."""

import sys

import hpack


def read(field):
    name, value = field.rstrip("!").split(":")
    return bytes.fromhex(name), bytes.fromhex(value), field.endswith("!")


def show(field):
    name, value = field
    mark = "" if field.indexable else "!"
    return "%s:%s%s" % (name.hex(), value.hex(), mark)


def main():
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "new":
            encoder, decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
        elif word == "limit":
            decoder.max_allowed_table_size = int(rest[0])
        elif word == "size":
            encoder.header_table_size = int(rest[0])
        elif word == "decode":
            print(" ".join(map(show, decoder.decode(bytes.fromhex("".join(rest)), raw=True))))
        elif word == "encode":
            huffman = rest[:1] != ["plain"]
            fields = [read(field) for field in rest if field != "plain"]
            print(encoder.encode(fields, huffman=huffman).hex())
        else:
            raise SystemExit("what is %r?" % word)


main()
