package redistest

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// readCommand reads one command, an array of bulk strings. It returns its words and its
// bytes.
func readCommand(r *bufio.Reader) (words []string, raw []byte, err error) {
	raw, n, err := readHead(r, nil, '*')
	if err != nil {
		return nil, nil, err
	}
	words = make([]string, n)
	for i := range words {
		from := len(raw)
		var size int
		if raw, size, err = readHead(r, raw, '$'); err != nil {
			return nil, nil, err
		}
		from += len(raw[from:])
		if raw, err = readBytes(r, raw, size+2); err != nil {
			return nil, nil, err
		}
		words[i] = string(raw[from : from+size])
	}
	return words, raw, nil
}

// readHead reads a line of a type that contains a number.
func readHead(r *bufio.Reader, raw []byte, kind byte) ([]byte, int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, 0, fmt.Errorf("read a line: %w", err)
	}
	if len(line) < 3 || line[0] != kind {
		return nil, 0, fmt.Errorf("the line %q is not of the type %q", line, kind)
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		return nil, 0, fmt.Errorf("the line %q holds no number: %w", line, err)
	}
	return append(raw, line...), n, nil
}

func readBytes(r *bufio.Reader, raw []byte, n int) ([]byte, error) {
	from := len(raw)
	raw = append(raw, make([]byte, n)...)
	if _, err := io.ReadFull(r, raw[from:]); err != nil {
		return nil, fmt.Errorf("read %d bytes: %w", n, err)
	}
	return raw, nil
}

// readReply reads one reply of RESP2 or RESP3, whose type is its first byte, and
// appends it to raw.
func readReply(r *bufio.Reader, raw []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read a reply: %w", err)
	}
	raw = append(raw, line...)
	if len(line) < 3 {
		return nil, fmt.Errorf("the line %q is no reply", line)
	}
	values := 1
	switch line[0] {
	case '+', '-', ':', '_', '#', ',', '(':
		return raw, nil
	case '%':
		values = 2
	case '|':
		values = 2
	case '$', '=', '!', '*', '~', '>':
	default:
		return nil, fmt.Errorf("the line %q is no reply", line)
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		return nil, fmt.Errorf("the line %q holds no number: %w", line, err)
	}
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return raw, nil
		}
		return readBytes(r, raw, n+2)
	}
	for range n * values {
		if raw, err = readReply(r, raw); err != nil {
			return nil, err
		}
	}
	if line[0] == '|' { // these were attributes of the next reply
		return readReply(r, raw)
	}
	return raw, nil
}
