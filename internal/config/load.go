package config

import (
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/batchd/batchd/internal/intake"
	"github.com/batchd/batchd/internal/setting"
)

// Options are the sources of a configuration.
type Options struct {
	// File is the path of the YAML file. If it is empty, BATCHD_CONFIG in Environ names
	// the file, if any.
	File string
	// Environ is the environment, in the form of [Environ]. Load ignores variables that
	// are empty or do not start with BATCHD_.
	Environ []string
	// Set holds the flags that were given, by the path of the setting: one of
	// [Settings].
	Set map[string]string
	// Files: also check the files that only a process with the API opens, which a worker may lack: the certificates
	// of the API, and the audit log.
	Files bool
}

// Environ returns the environment of the process.
func Environ() []string { return os.Environ() }

// Load reads and checks a configuration. It returns all faults at once, as an [*Error].
func Load(o Options) (*Config, error) {
	l := newLoader()
	variables := l.environment(o.Environ)
	file := o.File
	if file == "" {
		file = variables[configVariable]
	}
	readable := file == "" || l.readFile(file)
	settings := Settings()
	for _, s := range settings {
		l.fromVariables(s, variables)
	}
	for _, path := range slices.Sorted(maps.Keys(o.Set)) {
		if !slices.ContainsFunc(settings, func(s Setting) bool { return s.Path == path }) {
			l.faultAt(place{file: FlagName(path)}, "", "unknown setting%s", nearest(path, settingPaths(settings)))
			continue
		}
		l.override(path, o.Set[path], FlagName(path))
	}
	// If the file cannot be read, report no further faults: a missing target, for
	// instance, would be misleading.
	if readable {
		l.readSealFile(file)
		l.validate()
		if o.Files {
			l.validateFiles()
		}
	}
	if err := l.err(); err != nil {
		return nil, err
	}
	l.cfg.places = l.places
	return l.cfg, nil
}

// loader fills a configuration and records the places of its settings.
type loader struct {
	ledger
	cfg *Config
}

func newLoader() *loader {
	return &loader{cfg: Default(), ledger: ledger{places: map[string]place{}}}
}

// readFile reads the configuration file, and reports whether it is valid YAML.
func (l *loader) readFile(file string) bool {
	l.places[""] = place{file: file}
	source, err := setting.ReadFile(file, mostFile)
	if err != nil {
		l.fault("", "cannot read the file: %v", err)
		return false
	}
	return l.readSource(source)
}

// readSource reads the content of the file, and reports whether it is valid YAML.
func (l *loader) readSource(source []byte) bool {
	return l.readInto(source, reflect.ValueOf(l.cfg).Elem())
}

// readInto reads the content of a file into a struct, and reports whether it is valid YAML.
func (l *loader) readInto(source []byte, into reflect.Value) bool {
	if at, detail := intake.CheckText(source); detail != "" {
		l.faultAt(place{l.places[""].file, at.Line, at.Column}, "", "column %d: %s", at.Column, detail)
		return false
	}
	root, at, err := parse(intake.CutMark(source))
	if err != nil {
		at.file = l.places[""].file
		l.faultAt(at, "", "%v", err)
		return false
	}
	if root != nil {
		l.decode("", into, root)
	}
	return true
}
