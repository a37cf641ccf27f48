package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/intake"
	"github.com/batchd/batchd/internal/webhook"
)

// Bounds of a submission's options. The lengths are in characters, as in a JSON schema.
const (
	maxWebhookURL    = 2048
	maxMetadata      = 64
	maxMetadataKey   = 128
	maxMetadataValue = 2048
)

func (d *decoder) setTarget(name string) error {
	d.spec.Target = name
	switch {
	case d.fixed != "" && name != d.fixed:
		return fmt.Errorf("this endpoint is for the target %q: leave the target out", d.fixed)
	case !slices.Contains(d.targets, name) && apikey.InValue(name):
		return fmt.Errorf("the name of the target is a key of batchd, which belongs in X-Batchd-Key: expected %s", oneOf(d.targets))
	case !slices.Contains(d.targets, name):
		return fmt.Errorf("unknown target %q: expected %s", intake.Clip(name), oneOf(d.targets))
	}
	return nil
}

// chooseTarget sets the target if the submission leaves it out.
func (d *decoder) chooseTarget() {
	switch {
	case d.fixed != "":
		d.spec.Target = d.fixed
	case len(d.targets) == 1:
		d.spec.Target = d.targets[0]
	default:
		d.Fault("/target", "the target is missing: expected %s", oneOf(d.targets))
	}
}

func oneOf(names []string) string {
	const most = 20
	if len(names) > most {
		return "one of " + strings.Join(names[:most], ", ") + ", …"
	}
	return "one of " + strings.Join(names, ", ")
}

func (d *decoder) setExpiresIn(s string) error {
	return setDuration(&d.spec.ExpiresIn, s, d.limits.MaxExpiresIn)
}

func (d *decoder) setRetention(s string) error {
	return setDuration(&d.spec.Retention, s, d.limits.MaxRetention)
}

// setDuration parses a duration such as "90s" or "1h30m".
func setDuration(to *time.Duration, s string, most time.Duration) error {
	parsed, err := time.ParseDuration(s)
	switch {
	case err != nil && !intake.IsDuration(s):
		return fmt.Errorf(`%q is not a duration: expected one such as "90s" or "1h30m", more than 0 and at most %s`, intake.Clip(s), shortDuration(most))
	case err != nil || parsed <= 0 || parsed > most:
		return fmt.Errorf("%s is out of range: expected more than 0 and at most %s", intake.Clip(s), shortDuration(most))
	}
	*to = parsed
	return nil
}

// shortDuration formats 168h for a duration that Duration.String formats as 168h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}

// errKeyInside refuses a text that would bring a key of batchd to another server.
var errKeyInside = errors.New("a key of batchd is in it, which is never sent to another server: take it out")

func (d *decoder) setWebhook(raw string) error {
	d.spec.WebhookURL = raw
	if !d.webhooks {
		return errors.New("this server delivers no webhooks, because it has no secret to sign them with: set webhooks.secret")
	}
	if apikey.InValue(raw) {
		return errKeyInside
	}
	switch n := utf8.RuneCountInString(raw); {
	case raw == "":
		return errors.New("the URL is empty: expected an absolute http or https URL, or leave the webhook out")
	case n > maxWebhookURL:
		return fmt.Errorf("the URL has %d characters: at most %d are allowed", n, maxWebhookURL)
	}
	return d.checkWebhook(raw)
}

// setWebhookSecret sets the secret with which this batch's webhook is signed. Its errors do
// not repeat it.
func (d *decoder) setWebhookSecret(secret string) error {
	d.spec.WebhookSecret = secret
	switch {
	case secret == "":
		return errors.New("the secret is empty: leave it out, then the owner's secret signs the webhook")
	case !d.sealed:
		return errors.New("the secret is a credential, " + intake.InClear)
	}
	return webhook.CheckSecret(secret)
}

func (d *decoder) setMetadata(key, value string) error {
	keyLength, valueLength := utf8.RuneCountInString(key), utf8.RuneCountInString(value)
	switch {
	case keyLength < 1 || keyLength > maxMetadataKey:
		return fmt.Errorf("the key has %d characters: expected 1 to %d", keyLength, maxMetadataKey)
	case valueLength > maxMetadataValue:
		return fmt.Errorf("the value has %d characters: at most %d are allowed", valueLength, maxMetadataValue)
	case len(d.spec.Metadata) == maxMetadata:
		return fmt.Errorf("too many entries: at most %d are allowed", maxMetadata)
	}
	if apikey.InValue(key) || apikey.InValue(value) {
		return errKeyInside
	}
	if d.spec.Metadata == nil {
		d.spec.Metadata = make(map[string]string)
	}
	d.spec.Metadata[key] = value
	return nil
}
