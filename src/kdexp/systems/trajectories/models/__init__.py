"""The models of trips on a road network: the student HOSER, the teacher LM-TAD, and the teacher's outlier metric."""
