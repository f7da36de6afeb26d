"""Top tagging: jets seen by full reconstruction and by the trigger; tops against light quarks and gluons."""
