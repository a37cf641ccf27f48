package setting

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ReadFile returns the content of a file that a setting names, which has at most that many bytes: a device such as
// /dev/zero has no end. The error does not repeat the name, which may be a secret in the wrong place.
func ReadFile(name string, most ByteSize) ([]byte, error) {
	file, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, WithoutPath(err)
	}
	defer func() { _ = file.Close() }() // it was only read
	return ReadAll(file, most)
}

// ReadAll is [ReadFile] for a file that is open.
func ReadAll(file io.Reader, most ByteSize) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err == nil && int64(len(content)) > int64(most) {
		err = fmt.Errorf("it has more than %s: is it the right file?", most)
	}
	if err != nil {
		return nil, WithoutPath(err)
	}
	return content, nil
}

// WithoutPath returns the cause of an error of a file, without the path.
func WithoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}
