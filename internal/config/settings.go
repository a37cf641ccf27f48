package config

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	envPrefix      = "BATCHD_"
	configVariable = envPrefix + "CONFIG"
	// targetPath is a setting without a key in the file: the URL of a single target,
	// named "default". It replaces the targets of the file.
	targetPath = "target"
	// ServerVariable configures the commands that talk to a server. It is not a
	// setting, but also not a mistake.
	ServerVariable = envPrefix + "SERVER"
	// TokenVariable also configures those commands.
	TokenVariable = envPrefix + "TOKEN"
	// CAVariable names the file with the authorities that the server's certificate needs.
	CAVariable = envPrefix + "CA_FILE"
	// CertVariable names the file with the certificate of the client.
	CertVariable = envPrefix + "CERT_FILE"
	// KeyVariable names the file with the key of that certificate.
	KeyVariable = envPrefix + "KEY_FILE"
	// NameVariable is the name in the certificate of the server.
	NameVariable = envPrefix + "SERVER_NAME"
	// fileSuffix ends the name of a variable that names a file with a secret.
	fileSuffix = "_FILE"
	// keysFileVariable is another name of the variable of auth.keys_file.
	keysFileVariable = envPrefix + "API_KEYS_FILE"
	// DefaultTarget is the name of the target that --target and BATCHD_TARGET define.
	DefaultTarget = "default"
)

// Setting is a value that a variable and a flag can set.
type Setting struct {
	// Path is its dotted path in the file, such as "redis.url".
	Path string
	// Env is the name of its variable.
	Env string
	// Flag is the name of its flag, without dashes in front.
	Flag string
	// Default is its default, as a user would write it. Empty means none.
	Default string
	// Secret: its value should not be on a command line, which every user of the
	// machine can read.
	Secret bool
	// EnvFile is the name of a variable that names a file with the value, if the value is or may hold a
	// secret. Otherwise it is empty.
	EnvFile string
}

// Settings returns every setting that a variable and a flag can set, in the order of
// the file. Lists can be set only in the file, except for the seal keys and lists of texts. "target" is
// not a key of the file: it is the URL of a single target.
func Settings() []Setting {
	var settings []Setting
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if isMapping(v.Type()) {
			for _, f := range fieldsOf(v) {
				walk(join(path, f.key), f.value)
			}
			return
		}
		_, keys := reflect.TypeAssert[[]seal.Key](v)
		_, secret := reflect.TypeAssert[setting.Secret](v)
		_, address := reflect.TypeAssert[rdb.URL](v)
		envFile := ""
		if keys || secret || address {
			envFile = EnvName(path) + fileSuffix
		}
		if v.Kind() == reflect.Slice && !keys && !isTexts(v.Type()) {
			return
		}
		settings = append(settings, Setting{
			Path: path, Env: EnvName(path), Flag: strings.TrimPrefix(FlagName(path), "--"),
			Default: scalar(v.Interface()),
			Secret:  keys || secret, EnvFile: envFile,
		})
	}
	walk("", reflect.ValueOf(Default()).Elem())
	return append(settings, Setting{Path: targetPath, Env: EnvName(targetPath), Flag: targetPath})
}

// fileOnly returns the lists that neither a variable nor a flag can set.
func fileOnly() (paths []string) {
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if isMapping(v.Type()) {
			for _, f := range fieldsOf(v) {
				walk(join(path, f.key), f.value)
			}
		} else if _, keys := reflect.TypeAssert[[]seal.Key](v); v.Kind() == reflect.Slice && !keys && !isTexts(v.Type()) {
			paths = append(paths, path)
		}
	}
	walk("", reflect.ValueOf(Default()).Elem())
	return paths
}

// EnvName returns the name of the variable of a setting: BATCHD_REDIS_URL for
// "redis.url".
func EnvName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// FlagName returns the flag of a setting: --redis-url for "redis.url".
func FlagName(path string) string {
	return "--" + strings.NewReplacer(".", "-", "_", "-").Replace(path)
}

// isOverride reports whether the file of a fault is really a variable or a flag.
func isOverride(file string) bool {
	return strings.HasPrefix(file, "--") || strings.HasPrefix(file, envPrefix)
}

func settingPaths(settings []Setting) []string {
	paths := make([]string, len(settings))
	for i, s := range settings {
		paths[i] = s.Path
	}
	return paths
}

// override sets one setting from a variable or a flag.
func (l *loader) override(path, value, source string) {
	p := place{file: source}
	if i := intake.InvalidUTF8([]byte(value)); i >= 0 {
		l.forget(path)
		l.places[path] = p
		l.fault(path, "the value holds the byte 0x%02x, which is not UTF-8: set it from a terminal or a file in UTF-8", value[i])
		return
	}
	if path == targetPath {
		l.forget("targets")
		for _, key := range []string{"targets", "targets[0].name", "targets[0].base_url"} {
			l.places[key] = p
		}
		l.cfg.Targets = []batch.Target{batch.Target{Name: DefaultTarget, BaseURL: value}.WithDefaults()}
		return
	}
	l.forget(path)
	l.places[path] = p
	if err := setText(lookup(reflect.ValueOf(l.cfg).Elem(), path).Addr().Interface(), value); err != nil {
		l.fault(path, "%v", err)
	}
}

// field is a key of a mapping and the value for it.
type field struct {
	key   string
	value reflect.Value
}

// fieldsOf returns the settings in a struct, in order. It includes the settings of
// inline structs, and omits fields without a tag.
func fieldsOf(v reflect.Value) []field {
	var fields []field
	for i := range v.NumField() {
		switch key := v.Type().Field(i).Tag.Get("yaml"); key {
		case "":
		case ",inline":
			fields = append(fields, fieldsOf(v.Field(i))...)
		default:
			fields = append(fields, field{key, v.Field(i)})
		}
	}
	return fields
}

// isMapping reports whether a setting of a type contains other settings.
func isMapping(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[batch.Rate]() && t != reflect.TypeFor[time.Time]() // written as one word
}

// lookup returns the value at a dotted path without indices.
func lookup(v reflect.Value, path string) reflect.Value {
	for key := range strings.SplitSeq(path, ".") {
		for _, f := range fieldsOf(v) {
			if f.key == key {
				v = f.value
				break
			}
		}
	}
	return v
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
