package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

// webhookSecretDocument has the secrets that verify the webhooks of an owner.
type webhookSecretDocument struct {
	Secret         string `json:"secret"`
	PreviousSecret string `json:"previous_secret,omitempty"`
}

// webhookSecret answers with the secrets of the owner who asks.
func (s *Server) webhookSecret(c *gin.Context) error {
	if _, err := negotiate(c, mediaJSON); err != nil {
		return err
	}
	given, err := parameters(c, "batch")
	if err != nil {
		return err
	}
	c.Header("Cache-Control", "no-store")
	if s.cfg.Webhooks.Secret == "" {
		return refuse(kindNotFound, "this server delivers no webhooks, because it has no secret to sign them with: set webhooks.secret")
	}
	by, owners := owner(c), batch.OwnedBy(c.GetStringSlice(keyOwners)...)
	switch {
	case given.Has("batch"):
		// An admin gets no secret of others, with which it could sign their webhooks.
		if by, err = s.cfg.Store.OwnerOf(c.Request.Context(), owners, given.Get("batch")); err != nil {
			return err
		}
	case len(owners.Names) > 1:
		return refuse(kindBadParameter, "with this credential you are another owner at each endpoint and target: name one of your batches, as ?batch=<id>")
	}
	secrets, err := s.cfg.Webhooks.OwnerSecrets(by)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, mediaJSON, webhookSecretDocument{secrets.Secret.Reveal(), secrets.Previous.Reveal()})
}
