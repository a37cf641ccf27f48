package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/config"
)

const deployments = "../../deployments/batchd.yaml"

func TestConfigurationOfTheContainersIsValid(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{File: deployments, Environ: []string{
		"BATCHD_CONFIG=" + deployments, "BATCHD_SEAL_KEYS=2026-11:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}})
	require.Equal(t, "redis", c.Redis.URL.Scheme())
	// compose passes an empty variable if the shell has none.
	load(t, config.Options{Environ: []string{"BATCHD_CONFIG=" + deployments, "BATCHD_SEAL_KEYS="}})
	load(t, config.Options{Environ: []string{
		"BATCHD_CONFIG=" + deployments, "BATCHD_LISTEN=0.0.0.0:8080", "BATCHD_AUTH_MODES=keys", "BATCHD_API_KEYS_FILE=/run/keys/keys.yaml",
		"BATCHD_SEAL_FILE=testdata/good/seal.keys",
	}})
}

func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "../../deployments/examples/*.yaml") {
		c := load(t, config.Options{File: file})
		require.NotEmpty(t, c.Endpoints)
		for _, e := range c.Endpoints {
			require.Equal(t, strings.TrimSuffix(filepath.Base(file), ".yaml"), string(e.Dialect), file)
		}
	}
}

func TestContainersMayDrainAndScale(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	var compose struct {
		Services map[string]struct {
			Command       any
			ContainerName string `yaml:"container_name"`
			Ports         []string
			Volumes       []string
			Environment   map[string]string
			StopGrace     string `yaml:"stop_grace_period"`
			Healthcheck   struct{ Test []string }
			DependsOn     map[string]struct{ Condition string } `yaml:"depends_on"`
		}
	}
	require.NoError(t, yaml.Unmarshal(source, &compose))
	require.Len(t, compose.Services, 5)
	c := load(t, config.Options{File: deployments})
	for name, service := range compose.Services {
		require.Empty(t, service.ContainerName, name)
		if name == "secrets" || name == "keys" {
			continue
		}
		require.NotEmpty(t, service.Healthcheck.Test, name)
		if name == "redis" {
			require.NotContains(t, service.Volumes, "secrets:/run/batchd:ro", "Redis needs no key that encrypts what it stores")
			continue
		}
		require.Equal(t, []any{name}, service.Command)
		require.Equal(t, "service_healthy", service.DependsOn["redis"].Condition, name)
		require.Equal(t, "service_completed_successfully", service.DependsOn["secrets"].Condition, name)
		grace, err := time.ParseDuration(service.StopGrace)
		require.NoError(t, err)
		require.Greater(t, grace, c.Worker.Drain+5*time.Second, "%s has to have the time to drain", name)
		require.Equal(t, map[string]string{
			"BATCHD_CONFIG": "/etc/batchd/batchd.yaml", "BATCHD_SEAL_FILE": "/run/batchd/seal.keys",
			"BATCHD_REDIS_PASSWORD_FILE": "/run/batchd/redis.password",
			"BATCHD_LISTEN":              "0.0.0.0:8080", "BATCHD_AUTH_MODES": "keys", "BATCHD_API_KEYS_FILE": "/run/keys/keys.yaml", "BATCHD_MONITOR_LISTEN": "0.0.0.0:8081",
		}, service.Environment, name)
	}
	require.Empty(t, compose.Services["worker"].Ports, "a port of the host can be had once only")
	require.Subset(t, compose.Services["worker"].Healthcheck.Test, []string{"/batchd", "health", "http://127.0.0.1:8081/healthz"})
	require.Subset(t, compose.Services["api"].Healthcheck.Test, []string{"/batchd", "health", "http://127.0.0.1:8080/readyz"})
	for _, option := range []string{"--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"} {
		require.Contains(t, compose.Services["redis"].Command, option)
	}
}
