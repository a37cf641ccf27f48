package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/batchd/batchd/client"
)

func Example() {
	// Replaces a batchd server: it accepts any batch and answers that the batch has
	// already ended.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/batch/b1/results":
			_, _ = io.WriteString(w, `{"id":"ada","index":0,"outcome":"succeeded","status":201,"body":{"id":7},"attempts":1}
{"id":"bob","index":1,"outcome":"errored","error":{"code":"timeout","message":"the answer did not come in time"},"attempts":5}
`)
		default:
			_, _ = io.WriteString(w, `{"id":"b1","status":"completed","counts":{"total":2,"succeeded":1,"errored":1}}`)
		}
	}))
	defer server.Close()

	ctx := context.Background()
	c, err := client.New(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	batch, err := c.Submit(ctx, []client.Action{
		{ID: "ada", Method: "POST", Path: "/customers", Body: map[string]string{"name": "Ada"}},
		{ID: "bob", Method: "POST", Path: "/customers", Body: map[string]string{"name": "Bob"}},
	}, client.Options{Target: "crm"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if batch, err = c.Wait(ctx, batch.ID); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %d of %d succeeded\n", batch.Status, batch.Counts.Succeeded, batch.Counts.Total)
	for result, err := range c.Results(ctx, batch.ID, client.Filter{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if result.Error != nil {
			fmt.Println(result.ID, result.Outcome, result.Error.Code)
			continue
		}
		fmt.Println(result.ID, result.Outcome, result.Status, string(result.Body))
	}
	// Output:
	// completed: 1 of 2 succeeded
	// ada succeeded 201 {"id":7}
	// bob errored timeout
}
