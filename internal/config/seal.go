package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/batchd/batchd/internal/intake"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/seal"
)

// parseSealKeys parses "id:base64,id2:base64". In a file that a variable names, line breaks may take the
// place of commas.
func parseSealKeys(text string) ([]seal.Key, error) {
	var keys []seal.Key
	for i, part := range strings.Split(strings.ReplaceAll(text, "\n", ","), ",") {
		key, ok := parseSealKey(part)
		if !ok {
			return nil, fmt.Errorf("cannot read key %d: expected id:base64, several with commas between", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseSealKey(text string) (seal.Key, bool) {
	id, encoded, ok := strings.Cut(strings.TrimSpace(text), ":")
	return seal.Key{ID: id, Base64: setting.Secret(encoded)}, ok
}

// readSealFile adds the keys of the seal file, if there is one, with their lines.
func (l *loader) readSealFile(configFile string) {
	file := l.cfg.Seal.File
	if file == "" {
		return
	}
	if at := l.place("seal.keys"); l.IsSet("seal.keys") {
		l.fault("seal.file", "the keys are set already, in %s: set seal.keys or seal.file", at)
		return
	}
	if !filepath.IsAbs(file) && !isOverride(l.place("seal.file").file) {
		file = filepath.Join(filepath.Dir(configFile), file)
	}
	source, err := setting.ReadFile(file, mostFile)
	if err != nil {
		// A key may have been set in the place of the name, so the fault does not repeat it.
		l.fault("seal.file", "cannot read the file that it names: %v", err)
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
