package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/batchd/batchd/internal/intake"
)

// sealKeySize is that of an AES-256 key.
const sealKeySize = 32

const makeSealKey = "make one with: openssl rand -base64 32"

// SealKey is a key of the ring that seals what is stored.
type SealKey struct {
	// ID names the key beside everything that it sealed: 1 to 32 letters,
	// digits, ".", "-" and "_". It must not change while such data is kept.
	ID string `yaml:"id"`
	// Base64 holds the 32 bytes of the key in standard base64.
	Base64 Secret `yaml:"base64"`
}

// sealKeyID matches no key, not even one without padding that stands where the
// id belongs: an id may be shown.
var sealKeyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// Bytes returns the 32 bytes of a key that [Load] returned.
func (k SealKey) Bytes() []byte {
	raw, err := k.decode()
	if err != nil {
		panic("config: a seal key that was not checked: " + err.Error())
	}
	return raw
}

// decode never returns base64's own error, which names the byte that it stopped at.
func (k SealKey) decode() ([]byte, error) {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(k.Base64.Reveal(), "="))
	switch {
	case k.Base64 == "":
		return nil, errors.New("the key is missing: " + makeSealKey)
	case err != nil:
		return nil, errors.New("the key is not valid base64: " + makeSealKey)
	case len(raw) != sealKeySize:
		return nil, fmt.Errorf("the key has %d bytes: expected %d: %s", len(raw), sealKeySize, makeSealKey)
	}
	return raw, nil
}

// parseSealKeys reads "id:base64,id2:base64".
func parseSealKeys(text string) ([]SealKey, error) {
	var keys []SealKey
	for i, part := range strings.Split(text, ",") {
		key, ok := parseSealKey(part)
		if !ok {
			return nil, fmt.Errorf("cannot read key %d: expected id:base64, several with commas between", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseSealKey(text string) (SealKey, bool) {
	id, encoded, ok := strings.Cut(strings.TrimSpace(text), ":")
	return SealKey{ID: id, Base64: Secret(encoded)}, ok
}

// readSealFile adds the keys of the seal file, if there is one, with the lines
// that they stand in.
func (l *loader) readSealFile(configFile string) {
	file := l.cfg.Seal.File
	if file == "" {
		return
	}
	if at := l.place("seal.keys"); l.isSet("seal.keys") {
		l.fault("seal.file", "the keys are set already, in %s: set seal.keys or seal.file", at)
		return
	}
	if !filepath.IsAbs(file) && !isOverride(l.place("seal.file").file) {
		file = filepath.Join(filepath.Dir(configFile), file)
	}
	source, err := os.ReadFile(file) //nolint:gosec // the operator names the file to be read
	if err != nil {
		l.fault("seal.file", "cannot read %s: %v", file, withoutPath(err))
		return
	}
	if at, detail := intake.CheckText(source); detail != "" {
		l.faultAt(place{file, at.Line, at.Column}, "", "column %d: %s", at.Column, detail)
		return
	}
	for i, line := range strings.Split(string(intake.CutMark(source)), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := index("seal.keys", len(l.cfg.Seal.Keys))
		l.places[at] = place{file: file, line: i + 1}
		key, ok := parseSealKey(line)
		if !ok {
			l.fault(at, "cannot read the line: expected id:base64")
		}
		l.cfg.Seal.Keys = append(l.cfg.Seal.Keys, key)
	}
	if len(l.cfg.Seal.Keys) == 0 {
		l.fault("seal.file", "there is no key in %s: expected id:base64, one a line", file)
	}
}
