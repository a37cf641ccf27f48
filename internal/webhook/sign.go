package webhook

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/batchd/batchd/internal/setting"
)

// purpose separates the secrets of owners from other values that might be derived from
// the same secret.
const purpose = "batchd webhook secret of owner "

// OwnerSecrets are the secrets of one owner, derived from those of the settings: whoever
// knows the secret of an owner can neither compute that of another nor the setting.
type OwnerSecrets struct {
	// Secret signs the owner's webhooks. It is empty if no webhooks are delivered.
	Secret setting.Secret
	// Previous also signs them while a secret is replaced. It is empty otherwise.
	Previous setting.Secret
}

// OwnerSecrets returns the secrets of an owner.
func (c Config) OwnerSecrets(owner string) (OwnerSecrets, error) {
	current, err := derive(c.Secret, owner)
	if err != nil {
		return OwnerSecrets{}, fmt.Errorf("webhooks.secret: %w", err)
	}
	previous, err := derive(c.PreviousSecret, owner)
	if err != nil {
		return OwnerSecrets{}, fmt.Errorf("webhooks.previous_secret: %w", err)
	}
	return OwnerSecrets{current, previous}, nil
}

func derive(secret setting.Secret, owner string) (setting.Secret, error) {
	if secret == "" {
		return "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret.Reveal(), SecretPrefix))
	if err != nil {
		return "", errors.New("it cannot be read: expected whsec_ and base64")
	}
	const size = 32
	key, err := hkdf.Key(sha256.New, raw, nil, purpose+owner, size)
	if err != nil {
		return "", fmt.Errorf("derive the secret of an owner: %w", err)
	}
	return setting.Secret(SecretPrefix + base64.StdEncoding.EncodeToString(key)), nil
}

// Sign returns the value of the header Webhook-Signature: a signature for each secret that
// is not empty, with a blank between.
func Sign(messageID string, at time.Time, payload []byte, secrets ...setting.Secret) (string, error) {
	var signatures []string
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		signer, err := standardwebhooks.NewWebhook(secret.Reveal())
		if err != nil {
			return "", errors.New("the secret cannot be read: expected whsec_ and base64")
		}
		signature, err := signer.Sign(messageID, at, payload)
		if err != nil {
			return "", errors.New("the webhook cannot be signed")
		}
		signatures = append(signatures, signature)
	}
	return strings.Join(signatures, " "), nil
}
