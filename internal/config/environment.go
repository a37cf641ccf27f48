package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// injected matches the variables that Kubernetes and Docker add to every container for
// a service or a linked container with the name batchd or batchd-…, as far as their
// names tell. No operator set them.
var injected = regexp.MustCompile(`^BATCHD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END|PORT_START|PORT_END))?|ENV_.+)$`)

// injectedValue matches such variables that a person could also set by mistake, with the
// values that they then have.
var injectedValue = regexp.MustCompile(`^BATCHD_(\w+_)?(PORT=(tcp|udp|sctp)://.*|NAME=/.*)$`)

// mistakes are variables that a person is likely to expect, and the setting that was meant.
var mistakes = []struct {
	name *regexp.Regexp
	path string
}{
	{regexp.MustCompile(`^BATCHD_((API|AUTH)_)?(API_)?KEYS?(_?FILE)?$`), "auth.keys_file"},
	{regexp.MustCompile(`^BATCHD_(SERVER_)?TLS_(CERT|CERTIFICATE|CRT)(_?FILE)?$`), "server.tls.cert_file"},
	{regexp.MustCompile(`^BATCHD_(SERVER_)?TLS_KEY(_?FILE)?$`), "server.tls.key_file"},
	{regexp.MustCompile(`^BATCHD_(LOG|DEBUG|VERBOSE|LOGLEVEL|LOGGING)$`), "log.level"},
	{regexp.MustCompile(`^BATCHD_WORKER_(PORT|HOST|ADDR|ADDRESS|BIND)$`), "worker.listen"},
	{regexp.MustCompile(`^BATCHD_REDIS_(PORT|HOST|ADDR|ADDRESS|DB)$`), "redis.url"},
	{regexp.MustCompile(`^BATCHD_((API|HTTP|SERVER|LISTEN)_)?(PORT|HOST|ADDR|ADDRESS|BIND)$`), "listen"},
}

var portAlone = regexp.MustCompile(`^[0-9]{1,5}$`)

// fileSettings are the variables that end like those of secrets, and set a setting.
var fileSettings = []string{EnvName("seal.file"), EnvName("auth.keys_file"), EnvName("server.tls.cert_file"), EnvName("server.tls.key_file"), EnvName("server.tls.client_ca_file"), EnvName("redis.tls.ca_file"), EnvName("redis.tls.cert_file"), EnvName("redis.tls.key_file")}

// meant returns what to add to a fault about an unknown variable.
func meant(name, value string, known []string) string {
	for _, m := range mistakes {
		switch {
		case !m.name.MatchString(name):
		case strings.HasSuffix(m.path, "_file"):
			return ": set " + nameOfFile(m.path) + " to the name of a file"
		case m.path == "log.level":
			return ": set " + EnvName(m.path) + ", for example to debug"
		case m.path == "redis.url":
			return ": set BATCHD_REDIS_URL, for example to redis://redis:6379/0"
		case portAlone.MatchString(value):
			return ": to listen on the port " + value + ", set " + EnvName(m.path) + "=:" + value + ", or " + EnvName(m.path) + "=127.0.0.1:" + value + " for this machine alone"
		default:
			return ": set " + EnvName(m.path) + ", for example to 127.0.0.1:8080"
		}
	}
	for _, path := range fileOnly() {
		if name == EnvName(path) || strings.HasPrefix(name, EnvName(path)+"_") {
			hint := ": " + path + " can only be set in the configuration file"
			if path == "targets" {
				hint += "; " + EnvName(targetPath) + " is the URL of a single target"
			}
			return hint
		}
	}
	if !strings.HasSuffix(name, fileSuffix) {
		known = slices.DeleteFunc(slices.Clone(known), func(k string) bool { return strings.HasSuffix(k, fileSuffix) && !slices.Contains(fileSettings, k) })
	}
	return nearest(name, known)
}

// nameOfFile returns the variable of a setting that names a file.
func nameOfFile(path string) string {
	if path == "auth.keys_file" {
		return keysFileVariable
	}
	return EnvName(path)
}

// environment returns batchd's variables that are not empty, and reports unknown ones
// as faults.
func (l *loader) environment(environ []string) map[string]string {
	known := []string{configVariable, ServerVariable, TokenVariable, TokenVariable + fileSuffix, keysFileVariable, CAVariable, CertVariable, KeyVariable, NameVariable}
	for _, s := range Settings() {
		known = append(known, s.Env)
		if s.EnvFile != "" {
			known = append(known, s.EnvFile)
		}
	}
	variables, keysFrom := map[string]string{}, ""
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" {
			continue
		}
		if slices.Contains(known, name) {
			if name == keysFileVariable || name == EnvName("auth.keys_file") {
				if keysFrom != "" && keysFrom != name {
					l.faultAt(place{file: name}, "auth.keys_file", "%s and %s are set: set only one of them", keysFileVariable, EnvName("auth.keys_file"))
				}
				keysFrom, name = name, EnvName("auth.keys_file")
			}
			variables[name] = value
		} else if !injected.MatchString(name) && !injectedValue.MatchString(entry) {
			l.faultAt(place{file: name}, "", "unknown variable%s", meant(name, value, known))
		}
	}
	return variables
}

// KeysFileOf returns the file with batchd's own keys that the environment names, or "".
func KeysFileOf(environ []string) (string, error) {
	l := newLoader()
	file := l.environment(slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name != keysFileVariable && name != EnvName("auth.keys_file")
	}))[EnvName("auth.keys_file")]
	return file, l.err()
}

// fromVariables sets a setting from its variable, or from the file that a variable names.
func (l *loader) fromVariables(s Setting, variables map[string]string) {
	value, ok := variables[s.Env]
	file, ofFile := variables[s.EnvFile]
	switch {
	case !ofFile && ok:
		l.override(s.Path, value, s.Env)
	case !ofFile:
	case ok:
		l.faultAt(place{file: s.EnvFile}, s.Path, "%s is set, too: set only one of them", s.Env)
	default:
		text, err := ReadSecret(file)
		if err != nil {
			l.forget(s.Path)
			l.places[s.Path] = place{file: s.EnvFile}
			// The value itself may have been set in the place of the name of a file.
			l.fault(s.Path, "cannot read the file that it names: %v", err)
			return
		}
		l.override(s.Path, text, s.EnvFile)
	}
}

const (
	// mostSecret is the most bytes of a file with one secret, and mostFile of other files.
	mostSecret = 64 << 10
	mostFile   = 16 << 20
)

var errEmptyFile = errors.New("the file is empty: write the value into it, or unset the variable")

// ReadSecret returns the content of a file without the line break at its end. An empty file is an error.
func ReadSecret(file string) (string, error) {
	content, err := setting.ReadFile(file, mostSecret)
	if err != nil {
		return "", err
	}
	text, _ := strings.CutSuffix(string(content), "\n")
	text, _ = strings.CutSuffix(text, "\r")
	if text == "" {
		return "", errEmptyFile
	}
	return text, nil
}
