package batches

// PageBytes is pageBytes.
const PageBytes = pageBytes
