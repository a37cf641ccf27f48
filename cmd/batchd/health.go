package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthCmd() *cobra.Command {
	var (
		url   string
		trust trust
	)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running batchd whether it is ready; for health checks of containers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			if err := checkScheme("--url", url); err != nil {
				return err
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
			if err != nil {
				return fmt.Errorf("ask %s: %w", url, err)
			}
			secure, err := trust.config()
			if err != nil {
				return err
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}}
			resp, err := client.Do(req)
			if err != nil {
				return fmt.Errorf("ask whether it is ready: %w", withAdvice(err))
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				if start, _ := io.ReadAll(io.LimitReader(resp.Body, 100)); strings.Contains(string(start), "HTTP request to an HTTPS server") {
					return fmt.Errorf("not ready: the server expects https: use the URL https://%s", req.URL.Host+req.URL.Path)
				}
				return fmt.Errorf("not ready: %s answered %s", url, resp.Status)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ready")
			return err
		},
	}
	cmd.Flags().StringVar(&url, "url", "http://127.0.0.1:8080/readyz", "the `URL` to ask")
	trust.flags(cmd)
	return cmd
}
