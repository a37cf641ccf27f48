package api

import (
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

// storeBudget is how long the store may take for one request, over all exchanges with
// it. A client gets its 503 within two seconds; the remaining time is for everything
// else.
const storeBudget = 1400 * time.Millisecond

// withBudget gives every request a time budget for the store. The store observes it.
func withBudget(c *gin.Context) {
	c.Request = c.Request.WithContext(batch.WithBudget(c.Request.Context(), storeBudget))
	c.Next()
}
