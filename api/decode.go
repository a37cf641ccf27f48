package api

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

const (
	// envelopeSize is the space for an action without its body: more than the largest
	// headers, path and query that pass validation.
	envelopeSize = 4 << 20
)

var (
	batchFields   = []string{"target", "actions", "webhook", "expires_in", "retention", "metadata"}
	webhookFields = []string{"url", "secret"}

	// errStop ends reading after a fault that makes the rest of the submission
	// unreadable.
	errStop = errors.New("the submission is refused")
)

// rules are the constraints that a decoder checks.
type rules struct {
	limits  Limits
	targets []string
	// policies has the targets' settings for refusals, by name.
	policies map[string]*batch.Target
	// transactional are the targets that have transactions.
	transactional []string
	// fixed is the target of the endpoint, or empty if the submission chooses.
	fixed string
	// webhooks: there is a secret to sign webhooks with.
	webhooks bool
	// checkWebhook returns the fault of a webhook's URL.
	checkWebhook func(raw string) error
	sealed       bool
	// authorization is added to every action without an Authorization header.
	authorization string
}

// decoder reads one submission. It stages every valid action while there is no fault,
// and collects all faults.
type decoder struct {
	rules
	*intake.Reader
	// stage takes an action, which it must not keep after it returns. Its error ends
	// reading.
	stage func(*batch.Action) error
	// keep accounts for bytes that stay in memory to the end of the submission.
	keep func(bytes int64) error

	spec batch.Spec
	// targeted: the submission names a target, valid or not.
	targeted bool
	count    int
	draft    draft
	groups   batch.Groups
	refusals refusals
}

func newDecoder(r rules, stage func(*batch.Action) error) *decoder {
	reader := intake.NewReader()
	if r.authorization != "" && !apikey.InValue(r.authorization) {
		reader.Searched = []batch.Field{{Name: "Authorization", Value: r.authorization}}
	}
	return &decoder{
		rules: r, Reader: reader, stage: stage, draft: draft{Action: &batch.Action{}},
		spec: batch.Spec{ExpiresIn: r.limits.ExpiresIn, Retention: r.limits.Retention},
	}
}

// maxItem is how many bytes of the submission one action may take. A string of which
// every byte is escaped is six times as long.
func (l Limits) maxItem() int64 { return 6*l.MaxActionBody + envelopeSize }

// readJSON reads a submission in one JSON document, to the end of the body.
func (d *decoder) readJSON(b *body) (*batch.Spec, error) {
	text := bufio.NewReaderSize(b, 16<<10)
	if !d.Begin(text) {
		return d.finish("", false)
	}
	d.keep, d.Hold = b.keep, b.hold
	src := &itemReader{src: text, span: d.limits.maxItem(), hold: b.parse}
	dec := intake.NewDecoder(src)
	whole, err := d.document(dec, src)
	if err == nil {
		src.mark = dec.InputOffset()
		switch _, end := dec.ReadToken(); {
		case errors.Is(end, io.EOF):
		case end != nil:
			err = end
		default:
			d.Fault("", "there is more after the end of the document")
		}
	}
	switch {
	case errors.As(err, new(*batch.UnavailableError)):
		return nil, err // this may be an io.EOF of the store's connection, too
	case src.exceeded:
		d.tooLong()
	case errors.Is(err, io.EOF):
		d.Fault("", "the body is empty: expected a JSON object")
	case intake.IsSyntax(err):
		d.SyntaxFault("", err)
	case err != nil && !errors.Is(err, errStop):
		return nil, err
	}
	return d.finish("/actions", whole && err == nil)
}

// document reports whether there was an object that was read to its end.
func (d *decoder) document(dec *jsontext.Decoder, src *itemReader) (bool, error) {
	return d.Object(dec, batchFields, func(name string) error {
		src.mark = dec.InputOffset()
		switch name {
		case "target":
			d.targeted = true
			return d.Text(dec, d.setTarget)
		case "expires_in":
			return d.Text(dec, d.setExpiresIn)
		case "retention":
			return d.Text(dec, d.setRetention)
		case "webhook":
			return d.webhook(dec)
		case "metadata":
			_, err := d.Object(dec, nil, func(key string) error {
				return d.Text(dec, func(value string) error { return d.setMetadata(key, value) })
			})
			return err
		default:
			return d.actions(dec, src)
		}
	})
}

// webhook reads the webhook, which must have a URL.
func (d *decoder) webhook(dec *jsontext.Decoder) error {
	hasURL := false
	ok, err := d.Object(dec, webhookFields, func(name string) error {
		if name == "secret" {
			return d.Text(dec, d.setWebhookSecret)
		}
		hasURL = true
		return d.Text(dec, d.setWebhook)
	})
	if ok && !hasURL {
		d.FaultHere(dec, "the webhook has no url: expected one, or leave the webhook out")
	}
	return err
}

func (d *decoder) actions(dec *jsontext.Decoder, src *itemReader) error {
	_, err := d.List(dec, func() error {
		if d.full("/actions") {
			return errStop
		}
		d.Index = d.count
		src.mark = dec.InputOffset()
		if err := d.readAction(dec, "/actions/"+strconv.Itoa(d.Index)); err != nil {
			return err
		}
		d.count++
		d.Index = -1
		return nil
	})
	return err
}

// full adds a fault if there are already as many actions as allowed.
func (d *decoder) full(pointer string) bool {
	if d.count < d.limits.MaxActions {
		return false
	}
	d.Fault(pointer, "too many actions: at most %d are allowed", d.limits.MaxActions)
	return true
}

// finish returns the spec of the submission, or all faults. Actions is the pointer of
// the list of actions. A missing field is a fault only if the whole submission was
// read.
func (d *decoder) finish(actions string, whole bool) (*batch.Spec, error) {
	d.Index = -1
	if whole {
		if d.count == 0 && !d.faulted("/actions") {
			d.Fault(actions, "there are no actions: expected at least one")
		}
		if !d.targeted {
			d.chooseTarget()
		}
		d.refusals.report(d)
		if slices.Contains(d.targets, d.spec.Target) {
			d.checkGroups(actions)
		}
	}
	if !d.Clean() {
		return nil, &d.Invalid
	}
	return &d.spec, nil
}

// faulted reports whether a field of the batch already has a fault.
func (d *decoder) faulted(pointer string) bool {
	return slices.ContainsFunc(d.Invalid.Faults, func(f batch.Fault) bool { return f.Pointer == pointer })
}

func (d *decoder) tooLong() {
	pointer := ""
	if d.Index >= 0 {
		pointer = "/actions/" + strconv.Itoa(d.Index)
	}
	d.Fault(pointer, "more than %d bytes without an end: reading stopped here", d.limits.maxItem())
}
