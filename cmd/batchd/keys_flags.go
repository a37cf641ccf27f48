package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/internal/setting"
)

// checkKeyTargets refuses targets that the configuration does not have. If the configuration was not read, it has
// none.
func checkKeyTargets(cfg *config.Config, key *batch.Key) error {
	var names []string
	for i := range cfg.Targets {
		names = append(names, cfg.Targets[i].Name)
	}
	for _, target := range key.Targets {
		if len(names) > 0 && !slices.Contains(names, target) {
			return fmt.Errorf("--target: there is no target %q in the configuration: expected %s", setting.Clip(target), setting.OneOf(names))
		}
	}
	return nil
}

// checkKeyQuotas refuses quotas that have no effect beside those of the configuration.
func checkKeyQuotas(cfg *config.Config, key *batch.Key) error {
	q := cfg.Quotas.Owner.Override(key.Quotas)
	if key.Quotas.UploadRate == 0 && key.Quotas.UploadBurst == 0 || q.UploadBurst == 0 || q.UploadBurst >= q.UploadRate {
		return nil
	}
	name := func(name string, own, value int64) string {
		if own == 0 {
			name = "the configured quotas." + name
		}
		return name + " " + setting.ByteSize(value).String()
	}
	return fmt.Errorf("--quota: %s is less than %s, so it would have no effect: set both, with a burst of at least a second's rate",
		name("upload_burst", key.Quotas.UploadBurst, q.UploadBurst), name("upload_rate", key.Quotas.UploadRate, q.UploadRate))
}

// checkKeyName refuses a key in the place of its name. An error that repeats the name would show it.
func checkKeyName(name string) error {
	if apikey.InValue(name) {
		return errors.New("this looks like a key of batchd itself: expected the name of a key, which batchd keys list shows")
	}
	return nil
}

// quotaFlags are quotas by their names.
type quotaFlags map[string]string

// apply sets the quotas.
func (f quotaFlags) apply(q *batch.Quotas) error {
	for name, text := range f {
		var size setting.ByteSize
		var err error
		switch name {
		case "open_batches":
			q.OpenBatches, err = strconv.Atoi(text)
			if err != nil || q.OpenBatches < 1 {
				err = fmt.Errorf("cannot read %q as a number of batches: expected for example 100", setting.Clip(text))
			}
		case "stored_bytes", "upload_rate", "upload_burst":
			size, err = setting.ParseByteSize(text)
			if err == nil && size < 1 { // 0 would mean the configured quota
				err = fmt.Errorf("%s is %q: expected a size of at least 1 byte, such as 64MiB", name, setting.Clip(text))
			}
			*map[string]*int64{"stored_bytes": &q.StoredBytes, "upload_rate": &q.UploadRate, "upload_burst": &q.UploadBurst}[name] = int64(size)
		default:
			err = fmt.Errorf("unknown quota %q: expected open_batches, stored_bytes, upload_rate or upload_burst", setting.Clip(name))
		}
		if err != nil {
			return fmt.Errorf("--quota: %w", err)
		}
	}
	return nil
}

// parseDays parses a duration, also in days.
func parseDays(flag, text string) (time.Duration, error) {
	const longest = 100 * 365 * 24 * time.Hour
	times, scale := 1, text
	if days, ok := strings.CutSuffix(text, "d"); ok {
		times, scale = 24, days+"h"
	}
	d, err := time.ParseDuration(scale)
	if err != nil || d <= 0 || d > longest/time.Duration(times) { // before the multiplication, which may overflow
		return 0, fmt.Errorf("%s: cannot read %q as a time: expected for example 90d or 12h", flag, text)
	}
	return d * time.Duration(times), nil
}
